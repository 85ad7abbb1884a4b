"""Training a sparse coder on streamed activations, with checkpoints and exact resumption.

In: a `CoderConfig`, `Batches` (step → (x, y), so a resumed run can seek), `TrainingSettings`,
perhaps a folder. Out: the coder and its records. Under torchrun every process passes its own share
of each batch. Knows nothing of models or text.
Paper: method §1 (Adam, warm-up, linear decay, clip 1; loss = FVU).
"""

from rewrite_utils.coder.training.batches import Batches, Pair, TensorBatches, order_of
from rewrite_utils.coder.training.loop import TrainingResult, train
from rewrite_utils.coder.training.settings import TrainingRecord, TrainingSettings, learning_rate
from rewrite_utils.coder.training.signum import ScheduleFreeSignum
