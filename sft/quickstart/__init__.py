"""The first run: an environment, a real model, real data, a training, and answers before and after.

`launch/quickstart.sh` is its front. `environment` and what it imports run before anything is installed, so
they import the standard library only.
"""
