// Reads N records by KafkaJS from a topic's beginning: `consume.js BOOTSTRAP TOPIC N`. Prints each as a line of
// JSON: {topic, partition, offset, key, headers, value}. Headers are [name, value] pairs, as a name may come twice.
'use strict';

const { client, freshGroup, run } = require('./common.js');

const text = (bytes) => (bytes === null || bytes === undefined ? null : bytes.toString('utf8'));

run(async ([bootstrap, topic, count]) => {
    const consumer = client(bootstrap).consumer({ groupId: freshGroup() });
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    let left = Number(count);
    await new Promise((resolve, reject) => {
        if (left === 0) resolve();
        // After a passing failure, a coordinator that is not there yet for instance, KafkaJS starts again itself.
        consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error));
        consumer
            .run({
                eachMessage: async ({ topic, partition, message }) => {
                    if (left === 0) return;
                    left -= 1;
                    const headers = Object.entries(message.headers ?? {}).flatMap(([name, value]) =>
                        (Array.isArray(value) ? value : [value]).map((one) => [name, text(one)]),
                    );
                    const { key, value } = message;
                    const offset = Number(message.offset);
                    console.log(
                        JSON.stringify({ topic, partition, offset, key: text(key), headers, value: text(value) }),
                    );
                    if (left === 0) resolve();
                },
            })
            .catch((error) => error.retriable || reject(error));
    });
});
