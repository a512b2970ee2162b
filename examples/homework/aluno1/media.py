"""The average of each column of notas.csv: printed, and left as a table."""

import csv
from statistics import mean

with open("notas.csv", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
averages = {name: mean(float(row[name]) for row in rows) for name in ("prova1", "prova2")}
with open("/out/medias.csv", "w", encoding="utf-8") as file:
    for name, average in averages.items():
        print(f"{name}: {average:.2f}")
        file.write(f"{name},{average:.2f}\n")
