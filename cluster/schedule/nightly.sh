#!/usr/bin/env bash
# Submits tonight's conversion and waits for its end: 0 when it went well or was submitted before, 1 otherwise.
#
#     RAY_API_SERVER_ADDRESS=http://HEAD:8265 nightly.sh CHECKPOINT IN OUT [options of jobs/convert.py]
#
# Whoever may see the cluster's jobs sees these options: secrets by name alone, as --webhook file:PATH, of the head.
set -euo pipefail

export RAY_AUTH_MODE=token  # by ~/.ray/auth_token, or RAY_AUTH_TOKEN_PATH
night=convert-$(date --utc +%F)

# The cluster runs a submission ID once, whoever submits it and however often.
if ray job status "$night" >/dev/null 2>&1; then
    echo "$night was submitted before: ray job logs $night"
    exit 0
fi
# The first GPU is waited for; the conversion asks for more.
exec ray job submit --submission-id "$night" -- python cluster/with_gpus.py 1 python jobs/convert.py "$@"
