// Sends records by KafkaJS: `produce.js BOOTSTRAP`. Reads a record a line as JSON from standard input,
// {topic, key, headers, value} with texts or nulls, and prints {partition, offset} for each, in order.
'use strict';

const { client, run } = require('./common.js');

run(async ([bootstrap]) => {
    let text = '';
    process.stdin.setEncoding('utf8');
    for await (const part of process.stdin) text += part;

    const producer = client(bootstrap).producer({ idempotent: true, maxInFlightRequests: 1 });
    await producer.connect();
    for (const line of text.split('\n').filter((one) => one !== '')) {
        const { topic, key, headers, value } = JSON.parse(line);
        const [{ partition, baseOffset }] = await producer.send({
            topic,
            acks: -1,
            messages: [{ key, headers, value }],
        });
        console.log(JSON.stringify({ partition, offset: Number(baseOffset) }));
    }
    await producer.disconnect();
});
