# Passes on a portion for each line of descriptor 6, and all at its end: what writes more cannot end before.
while read -r _line <&6; do
    head -c 65536
done
cat
