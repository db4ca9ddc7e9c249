"""What is kept: chats, presets, and turns in them."""

from __future__ import annotations

from webapp.errors.base import RoostError


class StorageError(RoostError):
    code = "storage_error"
    message_text = "The database cannot do that: {reason}"
    hint_text = "Check that the data folder can be written and the disk is not full."


class ChatNotFound(StorageError):
    code = "chat_not_found"
    status = 404
    message_text = "This chat does not exist any more."
    hint_text = "Choose another from the list, or begin a new one."


class MessageNotFound(StorageError):
    code = "message_not_found"
    status = 404
    message_text = "This message does not exist any more."
    hint_text = "Reload the page to see the chat as it is now."


class DatabaseTooNew(StorageError):
    code = "database_too_new"
    message_text = "{path} was written by a newer Roost (schema {found}; this one knows {known})."
    hint_text = (
        "Update Roost, or start it with another --data folder. To go back to a copy from before the update, "
        "put it in the place of the file; they are in {folder}."
    )


class DatabaseBroken(StorageError):
    code = "database_broken"
    message_text = "{path} is not a readable Roost database: {reason}"
    hint_text = (
        "Stop Roost and move the file aside. Then start again with a new database, or put a copy in its place; "
        "{folder} may have one."
    )


class DatabaseLocked(StorageError):
    code = "database_locked"
    status = 503
    message_text = "Another program keeps {path} locked; Roost waited {seconds:.0f} s for it."
    hint_text = "Close the program that has it open (a database browser, a backup or a sync program) and try again."


class DatabaseReadOnly(StorageError):
    code = "database_read_only"
    message_text = "{path} cannot be written."
    hint_text = (
        "Allow the account that runs Roost to write this file and the folder it is in, "
        "or start Roost with another --data folder."
    )


class DatabaseFull(StorageError):
    code = "database_full"
    status = 507
    message_text = "The disk is full: {path} cannot grow."
    hint_text = (
        "Free some space and try again. What was stored before is safe; an answer that broke off can be continued."
    )


class DatabaseGone(StorageError):
    """``happened`` and ``saved`` are Phrases: what became of the file, and where its content is now."""

    code = "database_gone"
    message_text = "{path} {happened} while Roost was running. Nothing more can be stored."
    hint_text = "{saved} Stop Roost, put the file you want to use in its place, and start it again."


class BackupNoRoom(StorageError):
    code = "backup_no_room"
    status = 507
    message_text = (
        "The database needs an update, and there is no room for a copy of it in {folder}: "
        "{needed} MB are needed, {free} MB are free."
    )
    hint_text = "Free some space and start again. Nothing was changed."


class BackupFailed(StorageError):
    code = "backup_failed"
    message_text = "No copy of the database could be made in {folder}: {reason}"
    hint_text = "Allow Roost to write there and start again. Nothing was changed."


class DataFolderInUse(StorageError):
    code = "data_folder_in_use"
    message_text = "Another Roost is running on the data folder {path}."
    hint_text = "Use that one or end it, or start this one with another --data folder."


class PresetError(RoostError):
    code = "preset_error"
    status = 400
    message_text = "The preset cannot be used: {reason}"
    hint_text = "Choose another, or open the Presets page."


class PresetNotFound(PresetError):
    code = "preset_not_found"
    status = 404
    message_text = "This preset does not exist any more."
    hint_text = "Choose another from the list of presets."


class PresetNameTaken(PresetError):
    code = "preset_name_taken"
    status = 409
    message_text = "There is a preset named {name} already."
    hint_text = "Choose another name."


class PresetChanged(PresetError):
    code = "preset_changed"
    status = 409
    message_text = "{name} was saved somewhere else meanwhile; your changes are not saved yet."
    hint_text = "Open it again to see what is there now, or save yours over it."


class TooManyPresets(PresetError):
    code = "too_many_presets"
    status = 409
    message_text = "There is room for {limit} presets, and no more."
    hint_text = "Delete some that are not needed."


class PresetFileInvalid(PresetError):
    code = "preset_file_invalid"
    status = 422
    message_text = "These are no presets Roost can read: {reason}"
    hint_text = "Nothing was imported. Export presets here or in RWKV-Runner and import that file."


class PresetInvalid(PresetError):
    """``name`` is the parameter's, as in the table of :mod:`webapp.services.presets.parameters`."""

    code = "preset_invalid"
    status = 422
    message_text = "{name} cannot be {value}: {reason}"
    hint_text = "Correct it and save again."


class PresetUnnamed(PresetInvalid):
    code = "preset_unnamed"
    message_text = "A preset needs a name."


class PresetOutOfRange(PresetInvalid):
    code = "preset_out_of_range"
    message_text = "{name} is {value}; it must be from {least} to {most}."


class PresetTooLong(PresetInvalid):
    code = "preset_too_long"
    message_text = "{name} is too long: {found}, the limit is {limit}."


class ChatError(RoostError):
    code = "chat_error"
    status = 409
    message_text = "This chat cannot do that now: {reason}"
    hint_text = "Wait for the answer or stop it, then try again."


class TurnRunning(ChatError):
    code = "turn_running"
    message_text = "An answer is still being written in this chat."
    hint_text = "Wait for it, or stop it first."


class NothingToContinue(ChatError):
    code = "nothing_to_continue"
    message_text = "There is no answer here that could go on."
    hint_text = "Write a message first."


class AttachmentError(ChatError):
    code = "attachment_error"
    status = 422
    message_text = "The file cannot be attached: {reason}"
    hint_text = "Attach another, or paste its text into the message."


class AttachmentNotText(AttachmentError):
    code = "attachment_not_text"
    message_text = "{name} is not a text file Roost can read: {reason}."
    hint_text = "Save it as plain text (UTF-8) and attach that, or paste its text into the message."


class AttachmentEmpty(AttachmentError):
    code = "attachment_empty"
    message_text = "There is no text in {name}."
    hint_text = "Attach another file."


class AttachmentTooLarge(AttachmentError):
    code = "attachment_too_large"
    status = 413
    message_text = "{name} is larger than {limit}, the most one file may have."
    hint_text = "Attach the part that matters, or split it into several files."


class AttachmentsFull(AttachmentError):
    code = "attachments_full"
    status = 409
    message_text = "{name} does not fit: a chat holds {files} files and {limit} in all."
    hint_text = "Remove a file that was not sent yet, or begin a new chat."


class AttachmentSent(AttachmentError):
    code = "attachment_sent"
    status = 409
    message_text = "{name} was sent with a message and belongs to it."
    hint_text = "Delete the message, or attach the file again."


class AttachmentNotFound(AttachmentError):
    code = "attachment_not_found"
    status = 404
    message_text = "This file is not in the chat any more."
    hint_text = "Attach it again."
