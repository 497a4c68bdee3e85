"""This directory stands on PYTHONPATH of a rehearsal under FSDP: see sitecustomize.py in it."""
