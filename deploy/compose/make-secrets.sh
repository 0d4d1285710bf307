#!/bin/sh
# Draws a secret for each file docker-compose.yml names in deploy/compose/secrets/; those that are there stay.
# Containers run as another user, so the files are readable; the folder is not entered by others.
set -eu
cd "$(dirname "$0")/secrets"
chmod 700 .
for name in postgres-password rabbitmq-password relay-password worker-password ingress-password operator-password \
    app-password receiver-password internal-api-key ingress-token; do
    [ -s "$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "$name"
    chmod 644 "$name"
done
# Standard Webhooks' form; give Clerk's own instead.
[ -s clerk-webhook ] || printf 'whsec_%s' "$(head -c 32 /dev/urandom | base64)" > clerk-webhook
chmod 644 clerk-webhook
