"""Files with which a scheduler runs a config: SLURM, GKE, TPU queued resources, SkyPilot, ssh.

:mod:`.generate` is the way in. Hardware and mesh are the config's; what cannot work raises an error before anything is
written. Nothing here submits anything.
"""
