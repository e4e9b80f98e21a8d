# What stands in for the PostgreSQL image: a server of Debian's, as user 999, configured by POSTGRES_….
FROM localhost/debian
RUN groupadd --gid 999 postgres \
    && useradd --uid 999 --gid postgres --no-create-home postgres \
    && apt-get update \
    && apt-get install --yes --no-install-recommends postgresql \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql \
    && install --directory --owner=postgres --mode=0700 /var/lib/postgresql/data \
    && install --directory --owner=postgres /var/run/postgresql
COPY postgres /usr/local/bin/run-postgres
ENV PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
CMD ["run-postgres"]
