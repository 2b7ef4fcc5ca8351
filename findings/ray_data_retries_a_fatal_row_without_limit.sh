#!/usr/bin/env bash
# Ray Data 2.60.0 never gives up on a row that kills its worker: max_errored_blocks and max_restarts do not count it.
#
# A row whose function ends the process (a codec that breaks off, memory that the kernel takes back) is not an error to
# Ray Data but a lost actor: the actor is started again and its task is run again, without a limit and without a word in
# the results. The natural guess, that max_errored_blocks (here 0: end at the first error) or the actor's own
# max_restarts ends the job or skips the row, is wrong: those count exceptions, and the data layer sets its own restarts.
# One such image in an archive of millions keeps the job running for ever, with all other rows done and none reported.
# Count attempts yourself, in a file that outlives the worker, and leave out what was tried three times.
#
# Exit status 0: as described. Other: Ray behaves in another way now.
set -euo pipefail
folder=$(mktemp -d /tmp/rd.XXXX)  # short: Ray's sockets lie in it
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray[data]==2.60.0"
cat > "$folder/job.py" <<'PY'
import os, sys, ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1])
ray.data.DataContext.get_current().max_errored_blocks = 0

class Score:
    def __call__(self, batch):
        if 3 in batch["id"]:
            with open(os.environ["TRIES"], "a") as file:
                file.write("x")
            os.kill(os.getpid(), 9)
        return batch

data = ray.data.range(8, override_num_blocks=8).map_batches(
    Score, batch_size=1, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1, max_restarts=2
)
print("ended:", len(data.take_all()), "rows")
PY
export TRIES=$folder/tries RAY_AUTH_MODE=disabled
: > "$TRIES"
status=0
timeout --signal=KILL 240 "$folder/venv/bin/python" "$folder/job.py" "$folder/r" > "$folder/out" 2>&1 || status=$?
tries=$(wc -c < "$TRIES")
echo "the row was tried $tries times in 240 s; exit status of the job $status (137: it was still running)"
[[ $status == 137 && $tries -ge 5 ]]
echo "as described"
