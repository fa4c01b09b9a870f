"""A training on Ray Train that the same command continues with.

options    where and how it runs
run        start it, go on with it, finish it
loop       … on each worker: resume, step, log, validate, save
report     what its workers tell
curves     TensorBoard, beside the checkpoints
"""

import os

# Settings of Ray Train; every module of this room comes after them.

# A report is a barrier that waits for the controller's next poll, 2 s apart by default.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# Workers' prints reach the driver once already; the patch would print them a second time.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
# So long a training waits for the workers of a lost node before it counts the nodes again; 60 s by default.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
