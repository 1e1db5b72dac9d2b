"""Chinese words, as jieba 0.42.1 cuts them with its own dictionary.

jieba keeps its dictionary in ``jieba.cache`` in the shared temporary folder and believes whatever lies there; a file left by another user
or another version would change scores. So the dictionary is read from the package itself, once a process (about a second).
"""

import functools
import warnings
from typing import Any


@functools.cache
def _tokenizer() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes in its source, and pkg_resources where setuptools still has it
        try:
            import jieba
        except ImportError as error:
            raise ImportError("Chinese tasks need the package jieba: pip install jieba==0.42.1", name="jieba") from error
        made = jieba.Tokenizer()
        made.FREQ, made.total = made.gen_pfdict(made.get_dict_file())
        made.initialized = True
    return made


def words(text: str) -> list[str]:
    """Return all pieces of the text in order, blanks and punctuation among them; joined they are the text. Raises ImportError."""
    return list(_tokenizer().cut(text))
