"""What every test can count on."""

import os

# The terminal speaks the language of whoever runs the tests; most of them read English, those of Chinese ask for it.
os.environ["ROOST_LANG"] = "en"

# The models are tiny and several workers share the cores: threads of torch and BLAS wait for each other, in engine
# processes too. One each made tests/starter/test_batches.py 11 times faster on two busy cores (67 to 6 s).
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As an engine on a CPU has it: each load of an RWKV-7 would compile it for half a second.
os.environ.setdefault("PYTORCH_JIT", "0")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
