#!/usr/bin/env bash
# Submits tonight's conversion and waits for its end. Exits 0 if it succeeded or was submitted before, 1 otherwise.
#
#     RAY_API_SERVER_ADDRESS=http://HEAD:8265 nightly.sh CHECKPOINT IN OUT [options of jobs/convert.py]
#
# Everyone who can see the cluster's jobs sees these options. Pass secrets by name, such as --webhook file:PATH on the head.
set -euo pipefail

export RAY_AUTH_MODE=token  # by ~/.ray/auth_token, or RAY_AUTH_TOKEN_PATH
night=convert-$(date --utc +%F)

# The cluster accepts each submission ID once.
if ray job status "$night" >/dev/null 2>&1; then
    echo "$night was submitted before: ray job logs $night"
    exit 0
fi
# Wait for the first GPU; the conversion requests more.
exec ray job submit --submission-id "$night" -- python cluster/with_gpus.py 1 python jobs/convert.py "$@"
