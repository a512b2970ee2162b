"""Whoever means harm, and what must be true after each of them.

client       a client that speaks protocol 1 wrongly in every field, and leaves at every point
server       a server that answers too early, too much, nonsense, or nothing
chaos        the way between a real client and a real server: cut, stalled, slow, damaged
oracles      what must hold after every case
listeners    whoever else may answer at a port
certificates with one thing wrong with each
"""
