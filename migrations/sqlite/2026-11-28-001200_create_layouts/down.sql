DROP TABLE layout_epochs;
