// Consumes N records of a topic by KafkaJS `eachMessage` that does nothing: `bench.js BOOTSTRAP TOPIC N`. Prints
// records per second, measured from the first record on.
'use strict';

const { client, freshGroup, run } = require('./common.js');

run(async ([bootstrap, topic, count]) => {
    const consumer = client(bootstrap).consumer({ groupId: freshGroup() });
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    const wanted = Number(count);
    let seen = 0;
    let started;
    const seconds = await new Promise((resolve, reject) => {
        // After a passing failure, a coordinator that is not there yet for instance, KafkaJS starts again itself.
        consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error));
        consumer
            .run({
                eachMessage: async () => {
                    if (seen === 0) started = process.hrtime.bigint();
                    seen += 1;
                    if (seen === wanted) resolve(Number(process.hrtime.bigint() - started) / 1e9);
                },
            })
            .catch((error) => error.retriable || reject(error));
    });
    console.log(Math.round((wanted - 1) / seconds));
});
