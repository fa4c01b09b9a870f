#!/usr/bin/env bash
# Made what lies here, by the jobs of commit ad6e772, whose package had no rooms, checked out at $1:
#
#   bash make.sh CHECKOUT        in an empty folder, with a Python that has the packages of CHECKOUT/constraints.txt
#
# All data is scikit-learn's handwritten digits; networks are as narrow as they can be and have learnt next to nothing.
set -eu
export PYTHONPATH=$1
jobs=$1/jobs

mkdir photos interrupted
python - <<'PYTHON'
from PIL import Image
from sklearn.datasets import load_digits

for i, digit in enumerate(load_digits().images[:8]):
    Image.fromarray((digit * 15).astype("uint8")).resize((32, 32)).convert("RGB").save(f"photos/{i}.png")
PYTHON
touch -d @1700000000 photos/*  # the ledger knows a local file by its size and this time

# Starts the training of folder $1, and kills it after its first checkpoint.
interrupted() {
  folder=$1
  shift
  setsid "$@" --storage interrupted --name "$(basename "$folder")" &
  until ls "$folder"/checkpoint_*/checkpoint.json; do sleep 0.05; done >/dev/null 2>&1
  kill -9 -- -$!
  wait $! || true
}

classifier="python $jobs/pretrain.py --dataset handwritten-digits --split train --width 0.05 --cpus-per-worker 1"
$classifier --epochs 1
interrupted interrupted/classifier $classifier --epochs 10 --checkpoint-every 50

f=$(echo runs/classifier-*)
dtn="--source handwritten-digits --source-split train --target handwritten-digits --f $f --judge $f"
dtn="$dtn --width-g 0.02 --width-D 0.05 --batch-size 16 --ema-decay 0.9 --cpus-per-worker 1"
python $jobs/train.py $dtn --steps 6 --checkpoint-every 3
python $jobs/convert.py $(echo runs/dtn-*) photos out
interrupted interrupted/dtn python $jobs/train.py $dtn --steps 200 --checkpoint-every 50

interrupted interrupted/srcnn python $jobs/super_resolution.py photos --test-images photos --patch 8 --middle 1 \
  --steps 200 --checkpoint-every 50 --cpus-per-worker 1

# A search, and what would have been left of it had all processes been killed when its second trial began.
python $jobs/tune.py $dtn --steps 8 --trials 2 --checkpoint-every 2 --concurrent 1 &
until ls -d runs/search-*/tune/_trial_*_2_*; do sleep 0.5; done >/dev/null 2>&1
cp -r runs/search-* interrupted/search
wait

# What no test reads.
rm -rf runs/search-*/{tune,trials,*.png}
find . -name tensorboard -exec rm -rf {} +
find runs interrupted/search -name optimizers.pt -delete
for run in runs/dtn-* interrupted/search/trials/*; do
  ls -d "$run"/checkpoint_2* | head -n -1 | xargs rm -r
done
for checkpoint in interrupted/{classifier,dtn,srcnn}/checkpoint_2*; do
  grep -q "$(basename "$checkpoint")" "$(dirname "$checkpoint")"/*_snapshot.json || rm -r "$checkpoint"
done
