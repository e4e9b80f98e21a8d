// What the clients share. Arguments: the brokers, then what each script names.
'use strict';

const { readFileSync } = require('node:fs');

const { Kafka, logLevel } = require('kafkajs');

// The default of KafkaJS 2; named so that it does not ask on standard error.
process.env.KAFKAJS_NO_PARTITIONER_WARNING = '1';

function client(bootstrap) {
    return new Kafka({
        clientId: 'horizons-tests',
        brokers: bootstrap.split(','),
        logLevel: logLevel.ERROR,
        retry: { initialRetryTime: 50, retries: 20 },
        ...security(),
    });
}

// How brokers are spoken with where KAFKAJS_SECURITY says so: {user, password, authority}; the system's authorities
// without one. Who is refused for that is refused again, so it is not tried for long.
function security() {
    if (!process.env.KAFKAJS_SECURITY) return {};
    const { user, password, authority } = JSON.parse(process.env.KAFKAJS_SECURITY);
    return {
        ssl: authority ? { ca: [readFileSync(authority)] } : true,
        sasl: { mechanism: 'scram-sha-512', username: user, password },
        retry: { initialRetryTime: 50, retries: 2 },
    };
}

// A group that nobody else is in.
function freshGroup() {
    return `kafkajs-${process.pid}-${Date.now()}`;
}

// A script that is not done by then is not getting there.
const LIMIT_MS = 300_000;

// Runs the script; a failure is its exit code.
function run(main) {
    setTimeout(() => {
        console.error('error: not done in time');
        process.exit(1);
    }, LIMIT_MS);
    main(process.argv.slice(2)).then(
        () => process.exit(0),
        (error) => {
            console.error(error);
            process.exit(1);
        },
    );
}

module.exports = { client, freshGroup, run };
