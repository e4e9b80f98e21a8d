DELETE FROM timers WHERE kind = 'external';
