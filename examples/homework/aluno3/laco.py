"""Counts, and has forgotten to stop."""

number = 0
print("contando...")
while number >= 0:
    number += 1
