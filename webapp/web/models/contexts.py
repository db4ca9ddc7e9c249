"""What the templates of the models pages are given."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.web.kit.page import Toast


@dataclass(frozen=True)
class FitLine:
    """``models/_fit.html``. ``kind``: good, warn, bad, or "" when nothing can be said."""

    kind: str
    text: str


@dataclass(frozen=True)
class Row:
    """``models/_row.html``. ``id`` is stable for a name and safe in HTML; ``phase``: "", loading or loaded."""

    id: str
    name: str
    url: str
    kind: str
    kind_word: str
    icon: str
    facts: tuple[str, ...]
    text: str = ""
    is_trouble: bool = False
    phase: str = ""
    can_load: bool = False
    can_delete: bool = True
    fit: FitLine | None = None
    convert_url: str = ""
    preset_url: str = ""


@dataclass(frozen=True)
class ModelList:
    """``models/_list.html``. ``more_url`` brings the rows below; ``revision`` is what the page was last told.

    ``is_empty``: there is no file at all; with rows missing and files there, the filter found nothing.
    """

    rows: tuple[Row, ...]
    total: int
    revision: str
    more_url: str = ""
    is_empty: bool = False


@dataclass(frozen=True)
class Filter:
    query: str = ""
    kind: str = ""
    count: int = 0


@dataclass(frozen=True)
class KindChoice:
    value: str
    label: str
    is_disabled: bool = False


@dataclass(frozen=True)
class ImportView:
    """A copy under way or just ended. ``share`` from 0 to 100."""

    id: str
    name: str
    phase: str
    word: str
    shown: str
    share: int
    error: str = ""
    hint: str = ""


@dataclass(frozen=True)
class UploadView:
    id: str
    name: str
    shown: str


@dataclass(frozen=True)
class LoadView:
    """``phase``: loading, unloading or failed; ``can_load_anyway``: because it does not fit."""

    phase: str
    title: str
    shown: str = ""
    share: int = 0
    hint: str = ""
    can_load_anyway: bool = False


@dataclass(frozen=True)
class Activity:
    """``models/_activity.html``; an empty place when nothing goes on. ``is_busy``: look again soon."""

    revision: str
    is_busy: bool
    load: LoadView | None
    imports: tuple[ImportView, ...]
    uploads: tuple[UploadView, ...]


@dataclass(frozen=True)
class ImportForm:
    """``models/_import.html``"""

    path: str = ""
    mode: str = "copy"
    modes: tuple[KindChoice, ...] = ()
    error: str = ""
    hint: str = ""


@dataclass(frozen=True)
class TrashRow:
    id: str
    name: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class TrashView:
    """``models/_trash.html``"""

    rows: tuple[TrashRow, ...]
    size: str


@dataclass(frozen=True)
class KnownRow:
    """``is_here``: a file of this name is in the library."""

    name: str
    facts: tuple[str, ...]
    uses: tuple[str, ...]
    hint: str
    is_too_large: bool
    page: str
    is_here: bool


@dataclass(frozen=True)
class KnownFamily:
    title: str
    text: str
    rows: tuple[KnownRow, ...]


@dataclass(frozen=True)
class ModelsPage:
    """``models/page.html``"""

    page_title: str
    commands_url: str
    toasts: tuple[Toast, ...]
    list: ModelList
    filter: Filter
    kinds: tuple[KindChoice, ...]
    activity: Activity
    import_form: ImportForm
    trash: TrashView
    known: tuple[KnownFamily, ...]
    folders: tuple[str, ...]
    slice_bytes: int
    free: str


@dataclass(frozen=True)
class News:
    """``models/_news.html``: the parts of an open page that changed, and what to say."""

    list: ModelList | None = None
    activity: Activity | None = None
    trash: TrashView | None = None
    toasts: tuple[Toast, ...] = ()


@dataclass(frozen=True)
class TensorRow:
    name: str
    shape: str
    dtype: str
    size: str


@dataclass(frozen=True)
class TensorGroup:
    """The tensors of one block, or those of none. ``url`` brings its rows."""

    key: str
    title: str
    shown: str
    url: str


@dataclass(frozen=True)
class TensorRows:
    """``models/_tensors.html``. ``left_out`` rows were too many to show."""

    rows: tuple[TensorRow, ...]
    left_out: int = 0


@dataclass(frozen=True)
class Pair:
    label: str
    value: str


@dataclass(frozen=True)
class DetailsPage:
    """``models/details.html``"""

    page_title: str
    commands_url: str
    toasts: tuple[Toast, ...]
    row: Row
    can_rename: bool
    file_name: str
    facts: tuple[Pair, ...]
    fit: FitLine | None
    strategy: str
    groups: tuple[TensorGroup, ...]
    tensor_count: str
    metadata: tuple[Pair, ...]
    rename_error: str = ""
