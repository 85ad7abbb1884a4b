"""The simulator: from a sentence and a text alone, how strongly does the latent fire?

One prompt = one (latent, window). The ten digits' probabilities at a forced answer position,
renormalised, give E = Σ p(d)·d from one forward pass: nothing is sampled, nothing parsed. Paper §5.
`LastToken` rates a window's last token, `EveryToken` all of its tokens in one pass; anything else
that is a `Simulator` (a trained one, say) can take their place.
"""

from rewrite_utils.simulate.prompt import (
    ExplanationError,
    Layout,
    Window,
    described,
)
from rewrite_utils.simulate.ratings import (
    RESULT,
    Ratings,
    expected_rating,
    read_engines,
    read_everywhere,
    read_ratings,
    read_sent,
)
from rewrite_utils.simulate.running import Part, Unfinished, finished, require_known, simulate
from rewrite_utils.simulate.simulators import (
    EveryToken,
    LastToken,
    Simulator,
    open_simulator,
    reading,
    wording,
)
