"""The Domain Transfer Network (Taigman, Polyak & Wolf, ICLR 2017) as a distributed batch system on Ray."""

import os

__version__ = "0.1.0"

# Ray reads this when it is imported. It is a pattern of lines that Ray keeps in its logs and off the driver's console:
# an error of its control process whenever a job ends while one of its actors is still starting.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"gcs_actor_scheduler\.cc:\d+: Failed to kill actor")
