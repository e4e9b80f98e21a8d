# What the Rust project's slim image has: Debian, a C compiler, and a toolchain, which is mounted here.
FROM localhost/debian
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY host-ca.crt /usr/local/share/host-ca.crt
ENV CARGO_HOME=/usr/local/cargo CARGO_HTTP_CAINFO=/usr/local/share/host-ca.crt \
    PATH=/usr/local/toolchain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
