"""Every error a person can cause or meet, as one tree.

    RoostError
    ├── SettingsError           a setting, flag or config file that cannot be used
    ├── WeightsError            a file on disk is not what it should be
    │   ├── FileMissing (StateMissing)  FileIsDirectory  FileEmpty  FileUnreadable  FileTruncated
    │   ├── FileReadingFailed   its reader took too long, too much memory, or ended
    │   ├── UnsafePickle        a pickle that wants to run code
    │   ├── WrongExtension      content and name disagree
    │   ├── UnknownFormat       none of the formats Roost reads
    │   ├── NotAModel           a good file of another kind (state, LoRA, music, not RWKV)
    │   ├── StateMismatch       a state that does not fit: says expected and found (StateDropped: at a swap)
    │   ├── BlendInvalid        states that make no weighted mean
    │   └── LegacyPth  VocabularyInvalid  TokenizerMissing
    ├── ConversionError         a model file could not be made into another; nothing was written
    │   ├── ConversionRefused  ConversionCancelled  ConversionTargetExists
    │   ├── ConversionNoSpace  LoraMismatch
    ├── StrategyError           a strategy string, or a strategy this model cannot take
    ├── BackendUnavailable      this machine cannot run it, and what would change that
    ├── RequestError            a generation request out of range
    │   ├── PromptEmpty  PromptTooLong  InvalidSampling  InvalidOption  TokenOutOfRange  GrammarInvalid
    ├── ModelError              the one model and its engine process
    │   ├── ModelNotFound  NoModelLoaded  ModelLoadFailed  LoadCancelled  OutOfMemory  ModelDoesNotFit
    │   ├── EngineCrashed  EngineStalled  CrashLoop  ModelUnloaded  QueueFull  ShuttingDown  NonFiniteLogits
    ├── LibraryError            a file of the library that cannot be added, renamed or deleted
    │   ├── ModelInUse  ModelKept  FileNameTaken  FileNameUnusable  DiskFull  FolderNotWritable
    │   └── UploadMissing  UploadOffset  UploadRefused  TrashMissing  FileOutdated
    ├── JobNotFound             a conversion, download or the like that is no longer listed
    ├── StorageError            ChatNotFound  MessageNotFound
    │   ├── DatabaseTooNew  DatabaseBroken  DatabaseLocked  DatabaseReadOnly  DatabaseFull  DatabaseGone
    │   └── BackupNoRoom  BackupFailed
    ├── PresetError             a saved way of answering
    │   ├── PresetNotFound  PresetNameTaken  PresetChanged  TooManyPresets  PresetFileInvalid
    │   └── PresetInvalid       one value that cannot be: PresetOutOfRange, PresetTooLong, PresetUnnamed
    ├── ChatError               TurnRunning  NothingToContinue
    │   └── AttachmentError     a text file that cannot be attached to a chat
    │       ├── AttachmentNotText  AttachmentEmpty  AttachmentTooLarge  AttachmentsFull
    │       └── AttachmentSent  AttachmentNotFound
    ├── ToolError               ToolInvalid  ToolNotFound  ToolFailed
    │   ├── BenchCaseInvalid  BenchLineInvalid  BenchNotFound  BenchRefused  BenchInterrupted
    │   └── McpError            a server that offers tools over MCP
    │       ├── McpNotInstalled  McpCommandMissing  McpServerEnded  McpTimedOut  McpNotSpoken  McpUnreachable
    │       └── McpRefused  McpServerInvalid  McpServerNotFound  McpServerOff  McpProgramsOff
    ├── WebError                BadFrame  NotRunning  TooManyRequests  TooLarge
    │   └── NotAllowed  TokenRequired  OwnerOnly  OwnerLinkUsed
    └── ApiError                a request of a program
        └── BodyInvalid  WrongMediaType  EncodedBody  ParameterInvalid  ParameterUnsupported  ModelNotServed
            UnknownAddress  TooManyStreams  ServerBusy

Each class carries ``code`` (stable: the OpenAI ``error.code`` and the translation key), ``status`` (HTTP), a sentence
and the way out. Both texts are ``str.format`` templates over the keyword arguments given, so the edge can say them in
the reader's language: ``error.<code>.message`` and ``error.<code>.hint`` in the catalogues of :mod:`webapp.i18n`.
A ``reason`` made of words and values is a :class:`Phrase`, which is translated with the error it stands in.
An error crosses the engine pipe as a plain dict (:meth:`RoostError.to_dict`, :func:`error_from_dict`).
"""

from __future__ import annotations

from webapp.errors.base import (
    RoostError,
    SettingsError,
    all_errors,
    as_roost_error,
    error_from_dict,
)
from webapp.errors.files import (
    BlendInvalid,
    ConversionCancelled,
    ConversionError,
    ConversionNoSpace,
    ConversionRefused,
    ConversionTargetExists,
    FileEmpty,
    FileIsDirectory,
    FileMissing,
    FileReadingFailed,
    FileTruncated,
    FileUnreadable,
    LegacyPth,
    LoraMismatch,
    NotAModel,
    StateDropped,
    StateMismatch,
    StateMissing,
    TokenizerMissing,
    UnknownFormat,
    UnsafePickle,
    VocabularyInvalid,
    WeightsError,
    WrongExtension,
)
from webapp.errors.library import (
    DiskFull,
    FileNameTaken,
    FileNameUnusable,
    FileOutdated,
    FolderNotWritable,
    JobNotFound,
    LibraryError,
    ModelInUse,
    ModelKept,
    StateInUse,
    TrashMissing,
    UploadMissing,
    UploadOffset,
    UploadRefused,
)
from webapp.errors.mcp import (
    McpCommandMissing,
    McpError,
    McpNotInstalled,
    McpNotSpoken,
    McpProgramsOff,
    McpRefused,
    McpServerEnded,
    McpServerInvalid,
    McpServerNotFound,
    McpServerOff,
    McpTimedOut,
    McpUnreachable,
)
from webapp.errors.models import (
    BackendUnavailable,
    CrashLoop,
    EngineCrashed,
    EngineStalled,
    LoadCancelled,
    ModelDoesNotFit,
    ModelError,
    ModelLoadFailed,
    ModelNotFound,
    ModelUnloaded,
    NoModelLoaded,
    NonFiniteLogits,
    OutOfMemory,
    QueueFull,
    ShuttingDown,
    StrategyError,
)
from webapp.errors.phrase import Phrase, fill, phrase_from_dict, sentences
from webapp.errors.requests import (
    ApiError,
    BenchCaseInvalid,
    BenchInterrupted,
    BenchLineInvalid,
    BenchNotFound,
    BenchRefused,
    BodyInvalid,
    EncodedBody,
    GrammarInvalid,
    InvalidOption,
    InvalidSampling,
    ModelNotServed,
    ParameterInvalid,
    ParameterUnsupported,
    PromptEmpty,
    PromptTooLong,
    RequestError,
    ServerBusy,
    TokenOutOfRange,
    ToolError,
    ToolFailed,
    ToolInvalid,
    ToolNotFound,
    TooManyStreams,
    UnknownAddress,
    WrongMediaType,
)
from webapp.errors.storage import (
    AttachmentEmpty,
    AttachmentError,
    AttachmentNotFound,
    AttachmentNotText,
    AttachmentSent,
    AttachmentsFull,
    AttachmentTooLarge,
    BackupFailed,
    BackupNoRoom,
    ChatError,
    ChatNotFound,
    DatabaseBroken,
    DatabaseFull,
    DatabaseGone,
    DatabaseLocked,
    DatabaseReadOnly,
    DatabaseTooNew,
    DataFolderInUse,
    MessageNotFound,
    NothingToContinue,
    PresetChanged,
    PresetError,
    PresetFileInvalid,
    PresetInvalid,
    PresetNameTaken,
    PresetNotFound,
    PresetOutOfRange,
    PresetTooLong,
    PresetUnnamed,
    StorageError,
    TooManyPresets,
    TurnRunning,
)
from webapp.errors.web import (
    BadFrame,
    NotAllowed,
    NotRunning,
    OwnerLinkUsed,
    OwnerOnly,
    TokenRequired,
    TooLarge,
    TooManyRequests,
    WebError,
)

__all__ = [
    "ApiError",
    "AttachmentEmpty",
    "AttachmentError",
    "AttachmentNotFound",
    "AttachmentNotText",
    "AttachmentSent",
    "AttachmentTooLarge",
    "AttachmentsFull",
    "BackendUnavailable",
    "BackupFailed",
    "BackupNoRoom",
    "BadFrame",
    "BenchCaseInvalid",
    "BenchInterrupted",
    "BenchLineInvalid",
    "BenchNotFound",
    "BenchRefused",
    "BlendInvalid",
    "BodyInvalid",
    "ChatError",
    "ChatNotFound",
    "ConversionCancelled",
    "ConversionError",
    "ConversionNoSpace",
    "ConversionRefused",
    "ConversionTargetExists",
    "CrashLoop",
    "DataFolderInUse",
    "DatabaseBroken",
    "DatabaseFull",
    "DatabaseGone",
    "DatabaseLocked",
    "DatabaseReadOnly",
    "DatabaseTooNew",
    "DiskFull",
    "EncodedBody",
    "EngineCrashed",
    "EngineStalled",
    "FileEmpty",
    "FileIsDirectory",
    "FileMissing",
    "FileNameTaken",
    "FileNameUnusable",
    "FileOutdated",
    "FileReadingFailed",
    "FileTruncated",
    "FileUnreadable",
    "FolderNotWritable",
    "GrammarInvalid",
    "InvalidOption",
    "InvalidSampling",
    "JobNotFound",
    "LegacyPth",
    "LibraryError",
    "LoadCancelled",
    "LoraMismatch",
    "McpCommandMissing",
    "McpError",
    "McpNotInstalled",
    "McpNotSpoken",
    "McpProgramsOff",
    "McpRefused",
    "McpServerEnded",
    "McpServerInvalid",
    "McpServerNotFound",
    "McpServerOff",
    "McpTimedOut",
    "McpUnreachable",
    "MessageNotFound",
    "ModelDoesNotFit",
    "ModelError",
    "ModelInUse",
    "ModelKept",
    "ModelLoadFailed",
    "ModelNotFound",
    "ModelNotServed",
    "ModelUnloaded",
    "NoModelLoaded",
    "NonFiniteLogits",
    "NotAModel",
    "NotAllowed",
    "NotRunning",
    "NothingToContinue",
    "OutOfMemory",
    "OwnerLinkUsed",
    "OwnerOnly",
    "ParameterInvalid",
    "ParameterUnsupported",
    "Phrase",
    "PresetChanged",
    "PresetError",
    "PresetFileInvalid",
    "PresetInvalid",
    "PresetNameTaken",
    "PresetNotFound",
    "PresetOutOfRange",
    "PresetTooLong",
    "PresetUnnamed",
    "PromptEmpty",
    "PromptTooLong",
    "QueueFull",
    "RequestError",
    "RoostError",
    "ServerBusy",
    "SettingsError",
    "ShuttingDown",
    "StateDropped",
    "StateInUse",
    "StateMismatch",
    "StateMissing",
    "StorageError",
    "StrategyError",
    "TokenOutOfRange",
    "TokenRequired",
    "TokenizerMissing",
    "TooLarge",
    "TooManyPresets",
    "TooManyRequests",
    "TooManyStreams",
    "ToolError",
    "ToolFailed",
    "ToolInvalid",
    "ToolNotFound",
    "TrashMissing",
    "TurnRunning",
    "UnknownAddress",
    "UnknownFormat",
    "UnsafePickle",
    "UploadMissing",
    "UploadOffset",
    "UploadRefused",
    "VocabularyInvalid",
    "WebError",
    "WeightsError",
    "WrongExtension",
    "WrongMediaType",
    "all_errors",
    "as_roost_error",
    "error_from_dict",
    "fill",
    "phrase_from_dict",
    "sentences",
]
