//! The partition that the core expects for a key is the one where KafkaJS and the Java client put it (E4).

use horizons_actors::event::partition_for;
use horizons_actors::ids::{EventId, Topic};

use super::clients::StockRecord;
use super::kafka::Kafka;

/// Keys of every length around a word of the hash, of every script, empty and long ones.
fn keys() -> Vec<String> {
    let mut keys: Vec<String> = (0..200).map(|n| format!("job-{n}")).collect();
    keys.extend((0..40).map(|length| "abcdefghijklmnop".chars().cycle().take(length).collect()));
    keys.extend(
        ["µ", "größe", "Ω≈ç√∫", "事件", "событие", "🌅", "🌅🌅🌅", "a\u{301}", " ", "\u{7f}"]
            .map(str::to_owned),
    );
    keys.extend([100, 1_000, 10_001].map(|length| "длинный".chars().cycle().take(length).collect()));
    keys.extend(
        (0..60_u128)
            .map(|n| uuid::Uuid::from_u128(n * 0x0193_a1c0_1234_5678_9abc_def0_1234_5678).to_string()),
    );
    keys
}

#[test]
fn partition_for_a_key_is_that_of_kafkajs_and_of_the_java_producer() {
    let kafka = Kafka::shared();
    let topic = Topic::ALL.into_iter().max_by_key(|topic| topic.partitions()).unwrap();
    let partitions = i32::from(topic.partitions());
    assert!(partitions > 1, "one partition tells nothing");
    let keys = keys();
    kafka.create_topic("keys-kafkajs", partitions);
    kafka.create_topic("keys-java", partitions);

    let by_kafkajs = kafka.kafkajs_produce(
        &keys
            .iter()
            .map(|key| StockRecord {
                topic: "keys-kafkajs".to_owned(),
                key: Some(key.clone()),
                value: Some(String::new()),
                ..StockRecord::default()
            })
            .collect::<Vec<_>>(),
    );
    let lines: Vec<_> = keys.iter().enumerate().map(|(n, key)| (key.clone(), n.to_string())).collect();
    kafka.console_produce("keys-java", &lines);
    let by_java = kafka.kcat_consume("keys-java");

    assert_eq!(by_java.len(), keys.len());
    let unused = EventId(uuid::Uuid::nil());
    let expected = |key: &str| i32::from(partition_for(topic, Some(key.as_bytes()), unused).0);
    for (key, (partition, _)) in keys.iter().zip(by_kafkajs) {
        assert_eq!(partition, expected(key), "KafkaJS, key `{key}`");
    }
    for record in by_java {
        let key = &keys[record.value.unwrap().parse::<usize>().unwrap()];
        assert_eq!(record.key.as_ref(), Some(key));
        assert_eq!(record.partition, expected(key), "Java, key `{key}`");
    }
}
