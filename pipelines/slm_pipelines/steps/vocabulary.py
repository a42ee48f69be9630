"""Hold a draft model's vocabulary against that of the model that it drafts for, before an engine is started."""

from slm_contract.results import VocabularyResult
from slm_contract.specs import VocabularySpec
from slm_pipelines.formats.gguf_vocabulary import find_difference, mismatch, read_vocabulary
from slm_pipelines.progress import Reporter
from slm_pipelines.store import Store


def run(spec: VocabularySpec, reporter: Reporter) -> VocabularyResult:
    """Compare the two; raises BadInput (VocabularyMismatch, InvalidGguf) and Retryable StoreCorrupt."""
    reporter.report("Comparing vocabularies")
    store = Store(spec.store)
    served = read_vocabulary(store.require(spec.gguf, "The served model"), "The served model")
    draft = read_vocabulary(store.require(spec.draft, "The draft model"), "The draft model")
    if difference := find_difference(served, draft):
        raise mismatch(difference)
    return VocabularyResult(tokens=min(len(served.tokens), len(draft.tokens)))
