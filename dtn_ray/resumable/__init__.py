"""A training on Ray Train that the same command resumes.

options    where and how it runs
run        starts, resumes and finishes a run
loop       the loop on each worker: resume, step, log, validate, save
report     reports from workers to Ray Train
curves     TensorBoard's curves, beside the checkpoints
"""

import os

# Settings of Ray Train. They must be set before any module of this room is imported.

# Each report waits for the controller's next poll; by default it polls every 2 s.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# The output of workers already reaches the driver once; the patch would print it a second time.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
# How long a training waits for the workers of a lost node before it counts the nodes again; 60 s by default.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
