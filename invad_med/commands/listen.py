"""Listen as a DICOM node: score each study that arrives, and send the results back into it.

Everything lies in one folder, and the process may end anywhere: started again, it goes on. An instance is answered with
success once it is on the disk; a study is scored when nothing of it has come for a while; results are sent until they
are stored. Nobody may send but the titles named, and nobody from another machine unless --bind says so.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from types import FrameType

from invad_med.commands.score import CONFIG, add_keys, keys_given
from invad_med.inference.run import RunOptions
from invad_med.node.memory import share_arenas
from invad_med.node.status import describe
from invad_med.node.store import Store
from invad_med.options import OptionError, plain_keys, refuse_secrets, settings_of

EXAMPLES = """\
  python -m invad_med listen --storage node --allow PACS --forward PACS@127.0.0.1:4242
  python -m invad_med listen --storage node --allow PACS CT1 --bind 0.0.0.0 --forward https://pacs.example/dicom-web
  python -m invad_med listen --storage node --allow PACS --forward PACS@127.0.0.1:4242 --dicom_out '[report]'
  python -m invad_med listen --storage node --status
"""

_KEYS = ("ckpt_path", "modality", "false_positive_rate", "gate", "dicom_out", "batch_size", "device", "engine")
_TLS = ("tls_cert", "tls_key", "tls_ca")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the node's own options, and keys of the configuration."""
    add = parser.add_argument
    add("--storage", metavar="DIR", type=Path, required=True, help="everything received and made, and the queue")
    add("--status", action="store_true", help="say what lies there and why, and end")
    add("--forward", metavar="TO", help="where results go: AET@HOST:PORT, or a DICOMweb root, https://HOST/dicom-web")
    add("--allow", metavar="AET", nargs="+", action="extend", default=[], help="AE titles that may send")
    add("--aet", metavar="AET", default="INVAD", help="own AE title, which senders must call (%(default)s)")
    add("--port", metavar="N", type=int, default=11112, help="to listen at (%(default)s)")
    add("--bind", metavar="ADDRESS", default="127.0.0.1", help="of the interface; 0.0.0.0: all (%(default)s)")
    add(
        "--quiet",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="without images make a study complete (%(default)g)",
    )
    add("--keep", metavar="DAYS", type=float, help="remove studies so long after they were sent (never)")
    tls = parser.add_argument_group("TLS, all three or none; certificates are asked of both sides")
    tls.add_argument("--tls-cert", metavar="FILE", type=Path, help="this node's certificate, PEM")
    tls.add_argument("--tls-key", metavar="FILE", type=Path, help="its private key, PEM")
    tls.add_argument("--tls-ca", metavar="FILE", type=Path, help="certificates that others' must be signed by, PEM")
    tls.add_argument("--forward-tls", action="store_true", help="results to AET@HOST:PORT go by TLS too")
    keys = parser.add_argument_group("scoring, as python -m invad_med score has it")
    add_keys(keys, _KEYS)


def run(options: argparse.Namespace) -> int:
    """Listen until SIGINT or SIGTERM; return 0, or 2 if that cannot begin."""
    os.umask(0o077)  # what is written is of patients
    share_arenas()
    try:
        if options.status:
            if not (options.storage / "secret").is_file():
                raise OptionError(f"no node has listened with {options.storage}: give its --storage")
            print(describe(Store(options.storage)))
            return 0
        return _listen(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _listen(options: argparse.Namespace) -> int:
    given = {"report": False, **keys_given(options), "deterministic_uids": True}
    refuse_secrets(given)
    if not options.forward:
        raise OptionError("--forward is missing: where results go, as AET@HOST:PORT or https://HOST/dicom-web")
    if not 0 < options.quiet < math.inf:  # nor NaN
        raise OptionError(f"--quiet is {options.quiet:g}: seconds, more than 0")
    if options.keep is not None and not 0 <= options.keep < math.inf:
        raise OptionError(f"--keep is {options.keep:g}: days, at least 0")
    if not 0 < options.port < 65536:
        raise OptionError(f"--port is {options.port}: 1 to 65535")
    from invad_med.node.receiving import Receiver, Titles, quiet
    from invad_med.node.scoring import Resident
    from invad_med.node.sending import Destination, Peer, Stow, parse_peer
    from invad_med.node.tls import Credentials
    from invad_med.node.working import Sender, Worker

    titles = Titles(options.aet, tuple(options.allow))
    web = options.forward.startswith(("http://", "https://"))
    peer = None if web else parse_peer(options.forward)
    files = [getattr(options, name) for name in _TLS]
    credentials = Credentials(*files) if all(files) else None
    if credentials is None and (any(files) or options.forward_tls):
        raise OptionError("TLS needs --tls-cert, --tls-key and --tls-ca")
    if missing := [str(path) for path in files if path and not path.is_file()]:
        raise OptionError(f"no such file: {missing[0]}")
    log = Path(options.storage) / "audit.log"
    store = Store(options.storage)
    store.open()
    logging.raiseExceptions = False  # a full disk costs lines of the log, not the node
    logging.basicConfig(
        level=os.environ.get("LOGLEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(log)], force=True,
    )  # fmt: skip
    quiet()
    warnings.simplefilter("ignore")  # libraries quote values, which can be the patient's name
    tls = credentials.client() if credentials and options.forward_tls else None
    destination: Destination = Stow(options.forward) if peer is None else Peer(*peer, options.aet, tls)
    resident = Resident(store, RunOptions(**{**plain_keys(CONFIG), **given}), settings_of(CONFIG, given))
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    sender = Sender(store, destination)
    keep = None if options.keep is None else 86400 * options.keep
    worker = Worker(store, resident, sender.add, options.quiet, keep)
    receiver = Receiver(store, titles, worker.arrived)
    port = receiver.start(options.bind, options.port, credentials.server() if credentials else None)
    audit = logging.getLogger("invad_med.node")
    audit.info("%s listens at %s:%d for %s", options.aet, options.bind, port, ", ".join(options.allow))
    audit.info("results go to %s; a study is complete after %g s", destination.name, options.quiet)
    sender.start(stop)
    worker.run(stop)
    receiver.stop()
    sender.join(10.0)
    audit.info("ended; what is not done goes on at the next start")
    return 0
