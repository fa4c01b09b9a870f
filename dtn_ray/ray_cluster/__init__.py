"""Connection to Ray.

connect              joins a cluster or starts Ray on this machine, and checks that it is large enough
actor_warning        suppresses a warning of Ray's about actors that users cannot act on
deaths               explains in one line why Ray ended a process
ray_token            the token of a Ray that is started on this machine
ray_train_console    keeps superfluous output of Ray Train off the console
"""
