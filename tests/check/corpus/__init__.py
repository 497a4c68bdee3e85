"""Broken setups, each built from a failure that somebody reported, and good ones in which nothing may be found."""
