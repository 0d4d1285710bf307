# One image for every role: `docker run IMAGE relay`, `worker`, `ingress`, `migrate`, ... It needs BuildKit.
# Another base, also a mirror's or a digest: --build-arg RUST_IMAGE=... --build-arg RUNTIME_IMAGE=... (Debian 13 or alike).
ARG RUST_IMAGE=rust:1-trixie
ARG RUNTIME_IMAGE=debian:trixie-slim

# The manifests and an empty source for each package. This changes with the dependencies alone, and so does the layer
# in which they are compiled.
FROM ${RUST_IMAGE} AS manifests
WORKDIR /src
COPY . .
RUN <<'EOF'
set -eu
mkdir /manifests
find . \( -name Cargo.toml -o -name Cargo.lock \) -print0 | tar --create --null --files-from=- --mtime=@0 | tar --extract --directory=/manifests
find /manifests -name Cargo.toml -printf '%h\n' | while read -r package; do
    mkdir -p "$package/src"
    echo 'fn main() {}' > "$package/src/main.rs"
    : > "$package/src/lib.rs"
done
EOF

FROM ${RUST_IMAGE} AS build
# Writes the list of crates into the binary, where scanners that make an SBOM of the image find it.
RUN cargo install cargo-auditable --locked --version 0.7.7 --root /usr/local
WORKDIR /src
COPY --from=manifests /manifests .
RUN cargo auditable build --release --locked --bin postbound
COPY . .
# Sources keep the times they have outside, which may be before those of the empty ones.
RUN find crates -name '*.rs' -exec touch {} + \
    && cargo auditable build --release --locked --bin postbound \
    && strip --strip-debug target/release/postbound

FROM ${RUNTIME_IMAGE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && groupadd --system --gid 10001 postbound \
    && useradd --system --uid 10001 --gid postbound --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin postbound
COPY --chmod=755 deploy/images/healthcheck /usr/local/bin/postbound-healthcheck
COPY --from=build /src/target/release/postbound /usr/local/bin/postbound
COPY postbound.example.toml /usr/share/doc/postbound/

ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="postbound" \
    org.opencontainers.image.description="Keeps a user's record the same in every system that must know it: Postgres outbox, RabbitMQ, HTTP" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

# A number, so that Kubernetes can tell that it is not root's.
USER 10001:10001
# postbound.toml is looked for here.
WORKDIR /etc/postbound
ENV POSTBOUND_TELEMETRY__LISTEN=0.0.0.0:9464 \
    POSTBOUND_TELEMETRY__LOG_FORMAT=json \
    POSTBOUND_INGRESS__LISTEN=0.0.0.0:8090 \
    POSTBOUND_RECEIVER__LISTEN=0.0.0.0:8080
EXPOSE 9464 8090 8080
# Of every role that goes on; a command that ends by itself is over before it is asked.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["postbound-healthcheck"]
ENTRYPOINT ["postbound"]
CMD ["--help"]
