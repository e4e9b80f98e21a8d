# What stands in for the Kafka project's image: its broker, as user 1000, configured by KAFKA_… and CLUSTER_ID.
FROM localhost/debian
RUN apt-get update \
    && apt-get install --yes --no-install-recommends default-jre-headless \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --no-create-home appuser \
    && install --directory --owner=appuser /var/lib/kafka/data
COPY jars /opt/kafka/libs
COPY kafka /opt/kafka/run
USER appuser
VOLUME /var/lib/kafka/data
CMD ["/opt/kafka/run"]
