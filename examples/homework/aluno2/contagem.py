"""How often each word stands in poema.txt."""

from collections import Counter

with open("poema.txt", encoding="utf-8") as file:
    words = file.read().lower().split()
for word, count in Counter(words).most_common(3):
    print(f"{count} {word}")
