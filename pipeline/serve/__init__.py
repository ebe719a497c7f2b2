"""Servers on loopback that speak /messages: a simulator for rehearsals and tests, and a real, small model."""
