"""A Ray to work on.

connect              join a cluster or start Ray here, and check that it is large enough
actor_warning        a line of Ray's about actors that nobody can act on
deaths               why Ray ended a process, in one line
ray_token            the token of a Ray that is started here
ray_train_console    Ray Train's own noise
"""
