"""The database's schema as a list of migrations: version N is the result of the first N. Never edit one, append one.

Each entry is a tuple of statements that run in one transaction, together with the new ``user_version``.
"""

from __future__ import annotations

APPLICATION_ID = 0x526F6F73
"""'Roos' in the file's header: distinguishes a Roost database from those of other programs."""

_CHATS = (
    """CREATE TABLE chats (
        id TEXT PRIMARY KEY,
        title TEXT NOT NULL DEFAULT '',
        system_prompt TEXT NOT NULL DEFAULT '',
        template TEXT NOT NULL DEFAULT '',
        think_mode TEXT NOT NULL DEFAULT 'none',
        sampling TEXT NOT NULL DEFAULT '{}',
        head_id TEXT,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        deleted_at REAL
    )""",
    "CREATE INDEX chats_by_time ON chats (updated_at DESC) WHERE deleted_at IS NULL",
    """CREATE TABLE messages (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        chat_id TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
        parent_id TEXT REFERENCES messages (id) DEFERRABLE INITIALLY DEFERRED,
        role TEXT NOT NULL,
        content TEXT NOT NULL DEFAULT '',
        reasoning TEXT NOT NULL DEFAULT '',
        tool_calls TEXT NOT NULL DEFAULT '[]',
        tool_call_id TEXT NOT NULL DEFAULT '',
        name TEXT NOT NULL DEFAULT '',
        token_ids BLOB NOT NULL DEFAULT x'',
        think_mode TEXT NOT NULL DEFAULT 'none',
        metadata TEXT NOT NULL DEFAULT '{}',
        status TEXT NOT NULL DEFAULT 'complete',
        finish_reason TEXT NOT NULL DEFAULT '',
        stats TEXT NOT NULL DEFAULT '{}',
        error TEXT,
        model TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL,
        deleted_at REAL
    )""",
    "CREATE INDEX messages_by_chat ON messages (chat_id, parent_id, seq)",
    "CREATE INDEX messages_by_parent ON messages (parent_id)",
    "CREATE INDEX messages_streaming ON messages (status) WHERE status = 'streaming'",
    """CREATE TABLE journal (
        seq INTEGER PRIMARY KEY,
        message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
        content TEXT NOT NULL,
        reasoning TEXT NOT NULL,
        token_ids BLOB NOT NULL
    )""",
    "CREATE INDEX journal_by_message ON journal (message_id, seq)",
)

_PRESETS = (
    """CREATE TABLE presets (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        note TEXT NOT NULL DEFAULT '',
        shipped_key TEXT NOT NULL DEFAULT '',
        body TEXT NOT NULL DEFAULT '{}',
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        deleted_at REAL
    )""",
    # Choices for the whole server, such as the active preset.
    "CREATE TABLE choices (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "ALTER TABLE chats ADD COLUMN preset_id TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE chats ADD COLUMN state TEXT",
)

_TOOLS = (
    """CREATE TABLE tools (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        body TEXT NOT NULL,
        updated_at REAL NOT NULL,
        deleted_at REAL
    )""",
    "ALTER TABLE chats ADD COLUMN tools TEXT NOT NULL DEFAULT '{}'",
)

_TOOL_BENCH = (
    """CREATE TABLE bench_cases (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL,
        is_generated INTEGER NOT NULL DEFAULT 0,
        deleted_at REAL
    )""",
    """CREATE TABLE bench_runs (
        id TEXT PRIMARY KEY,
        started_at REAL NOT NULL,
        finished_at REAL,
        status TEXT NOT NULL DEFAULT 'running',
        setup TEXT NOT NULL,
        error TEXT
    )""",
    """CREATE TABLE bench_answers (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL REFERENCES bench_runs (id) ON DELETE CASCADE,
        body TEXT NOT NULL
    )""",
    "CREATE INDEX bench_answers_by_run ON bench_answers (run_id, seq)",
)

_MCP_SERVERS = (
    """CREATE TABLE mcp_servers (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        body TEXT NOT NULL,
        is_on INTEGER NOT NULL DEFAULT 0,
        tools TEXT NOT NULL DEFAULT '{}',
        updated_at REAL NOT NULL,
        deleted_at REAL
    )""",
)

_ATTACHMENTS = (
    # The message's metadata says which files it has; pending files are sent with the next one. The text is the last
    # column, so that reading the others needs none of its pages.
    """CREATE TABLE attachments (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        chat_id TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        mode TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        characters INTEGER NOT NULL,
        tokens INTEGER,
        tokenizer TEXT NOT NULL DEFAULT '',
        is_pending INTEGER NOT NULL DEFAULT 1,
        created_at REAL NOT NULL,
        text TEXT NOT NULL
    )""",
    "CREATE INDEX attachments_by_chat ON attachments (chat_id, seq)",
)

# One row, written at each start of a server: detects that the opened file was overwritten.
_SERVER = ("CREATE TABLE server (token BLOB NOT NULL)",)

_SESSIONS = (
    # Only the hash of an id is stored: a copy of the database gives no access.
    """CREATE TABLE sessions (
        key TEXT PRIMARY KEY,
        role TEXT NOT NULL,
        agent TEXT NOT NULL,
        token_hash TEXT NOT NULL,
        created_at REAL NOT NULL,
        used_at REAL NOT NULL
    )""",
)

# Results of the speed bench; ``machine`` shows if they were measured on another machine, in case the folder moves.
_MEASUREMENTS = (
    """CREATE TABLE measurements (
        id TEXT PRIMARY KEY,
        machine TEXT NOT NULL,
        measured_at REAL NOT NULL,
        body TEXT NOT NULL
    )""",
)

_KEPT_STATES = (
    # An answer of /v1/responses with the new part of its conversation; the rest is in the previous answers.
    """CREATE TABLE responses (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        previous_id TEXT,
        created_at REAL NOT NULL,
        size_bytes INTEGER NOT NULL,
        is_deleted INTEGER NOT NULL DEFAULT 0,
        body TEXT NOT NULL,
        input TEXT NOT NULL,
        messages TEXT NOT NULL
    )""",
    "CREATE INDEX responses_by_previous ON responses (previous_id)",
    "CREATE INDEX responses_by_time ON responses (created_at, size_bytes)",
    "CREATE INDEX responses_deleted ON responses (is_deleted) WHERE is_deleted",
    """CREATE TABLE response_items (
        id TEXT PRIMARY KEY,
        response_seq INTEGER NOT NULL REFERENCES responses (seq) ON DELETE CASCADE,
        body TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX response_items_by_response ON response_items (response_seq)",
    # Which chats and answers use a snapshot on disk: it is deleted with the last of them.
    """CREATE TABLE snapshot_uses (
        name TEXT NOT NULL,
        owner TEXT NOT NULL,
        PRIMARY KEY (name, owner)
    ) WITHOUT ROWID""",
    "CREATE INDEX snapshot_uses_by_owner ON snapshot_uses (owner)",
    # Separates a chat's snapshots from others' if its state was imported; "" for a chat created here.
    "ALTER TABLE chats ADD COLUMN origin TEXT NOT NULL DEFAULT ''",
)

# The position of a chat in the list.
_PLACES = (
    "ALTER TABLE chats ADD COLUMN is_pinned INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE chats ADD COLUMN is_archived INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE chats ADD COLUMN folder TEXT NOT NULL DEFAULT ''",
)

_STATE_HANDLES = (
    """CREATE TABLE state_handles (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        parent_id TEXT,
        session TEXT NOT NULL,
        state TEXT NOT NULL,
        origin TEXT NOT NULL,
        model TEXT NOT NULL,
        tokenizer TEXT NOT NULL,
        created_at REAL NOT NULL,
        used_at REAL NOT NULL,
        size_bytes INTEGER NOT NULL,
        token_ids BLOB NOT NULL
    )""",
    "CREATE INDEX state_handles_by_session ON state_handles (session, seq)",
    "CREATE INDEX state_handles_by_use ON state_handles (used_at, size_bytes)",
)

_PEOPLE = (
    """CREATE TABLE people (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL DEFAULT '',
        kind TEXT NOT NULL,
        is_admin INTEGER NOT NULL DEFAULT 0,
        password_hash TEXT NOT NULL DEFAULT '',
        invitation_id TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL,
        seen_at REAL NOT NULL DEFAULT 0,
        revoked_at REAL
    )""",
    # Accounts sign in by name; names that differ only in case are equal.
    "CREATE UNIQUE INDEX people_by_account ON people (name COLLATE NOCASE) WHERE kind = 'account'",
    "INSERT INTO people (id, kind, created_at) VALUES ('owner', 'owner', strftime('%s'))",
    "INSERT INTO people (id, kind, created_at) VALUES ('shared', 'guest', strftime('%s'))",
    # Only the hash of a link is stored, as for a session. person_id: the link admits the same person again.
    """CREATE TABLE invitations (
        id TEXT PRIMARY KEY,
        secret_hash TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL DEFAULT '',
        kind TEXT NOT NULL,
        is_admin INTEGER NOT NULL DEFAULT 0,
        person_id TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL,
        expires_at REAL,
        most_uses INTEGER,
        uses INTEGER NOT NULL DEFAULT 0,
        revoked_at REAL
    )""",
    # Existing data belongs to the owner; a guest's session becomes a separate person.
    "ALTER TABLE chats ADD COLUMN person_id TEXT NOT NULL DEFAULT 'owner'",
    "CREATE INDEX chats_by_person ON chats (person_id, updated_at DESC) WHERE deleted_at IS NULL",
    "ALTER TABLE sessions ADD COLUMN person_id TEXT NOT NULL DEFAULT 'owner'",
    """INSERT INTO people (id, kind, created_at, seen_at)
        SELECT substr(key, 1, 32), 'guest', created_at, used_at FROM sessions WHERE role <> 'owner'""",
    "UPDATE sessions SET person_id = substr(key, 1, 32) WHERE role <> 'owner'",
)

# ``token_ids``: tokens of the beginning of the text; ``chances``: the probability of each that the model sampled;
# ``past`` and ``future``: drafts for undo and redo.
_NOTEBOOKS = (
    """CREATE TABLE notebooks (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        settings TEXT NOT NULL DEFAULT '{}',
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        deleted_at REAL,
        now TEXT NOT NULL DEFAULT '{}',
        past TEXT NOT NULL DEFAULT '[]',
        future TEXT NOT NULL DEFAULT '[]'
    )""",
)

# Prompts and personas.
_SAVED_ITEMS = (
    """CREATE TABLE saved_items (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        body TEXT NOT NULL DEFAULT '{}',
        updated_at REAL NOT NULL,
        deleted_at REAL,
        picture BLOB
    )""",
    "CREATE INDEX saved_items_by_kind ON saved_items (kind, name) WHERE deleted_at IS NULL",
)

# ``body``: the content of the page when it was created, as JSON; NULL follows the chat.
_SHARES = (
    """CREATE TABLE shares (
        id TEXT PRIMARY KEY,
        chat_id TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
        title TEXT NOT NULL,
        made_at REAL NOT NULL,
        body TEXT
    ) WITHOUT ROWID""",
    "CREATE INDEX shares_by_chat ON shares (chat_id)",
)

# ``is_done``: 1 with an answer, 2 with an error.
_BATCHES = (
    """CREATE TABLE batches (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        columns TEXT NOT NULL,
        settings TEXT NOT NULL,
        total INTEGER NOT NULL,
        is_over INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL,
        deleted_at REAL
    )""",
    """CREATE TABLE batch_rows (
        batch_id TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
        place INTEGER NOT NULL,
        input TEXT NOT NULL,
        is_done INTEGER NOT NULL DEFAULT 0,
        answer TEXT NOT NULL DEFAULT '',
        about TEXT NOT NULL DEFAULT '{}',
        PRIMARY KEY (batch_id, place)
    ) WITHOUT ROWID""",
)

_API_TOKENS = (
    """CREATE TABLE api_tokens (
        id TEXT PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        scopes TEXT NOT NULL,
        person_id TEXT NOT NULL,
        created_at REAL NOT NULL,
        used_at REAL NOT NULL DEFAULT 0
    )""",
)

# NULL means the default, 0 no limit.
_LIMITS = (
    """CREATE TABLE person_limits (
        person_id TEXT PRIMARY KEY,
        answers INTEGER,
        day_tokens INTEGER,
        answer_tokens INTEGER
    )""",
    """CREATE TABLE person_use (
        person_id TEXT NOT NULL,
        day TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        PRIMARY KEY (person_id, day)
    ) WITHOUT ROWID""",
)

_PERSONAS = ("ALTER TABLE chats ADD COLUMN persona_id TEXT NOT NULL DEFAULT ''",)

# Existing data belongs to the owner, as for chats.
_OWNERS = tuple(
    f"ALTER TABLE {table} ADD COLUMN person_id TEXT NOT NULL DEFAULT 'owner'"
    for table in ("responses", "state_handles", "notebooks", "batches")
)

# For questions whose answers side by side have votes: a tally would read every message otherwise.
_VOTES = ("""CREATE INDEX messages_voted ON messages (id) WHERE metadata LIKE '%"votes"%'""",)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    _CHATS,
    _PRESETS,
    _TOOLS,
    _TOOL_BENCH,
    _MCP_SERVERS,
    _ATTACHMENTS,
    _SERVER,
    _SESSIONS,
    _MEASUREMENTS,
    _KEPT_STATES,
    _PLACES,
    _STATE_HANDLES,
    _PEOPLE,
    _NOTEBOOKS,
    _SAVED_ITEMS,
    _SHARES,
    _BATCHES,
    _API_TOKENS,
    _LIMITS,
    _PERSONAS,
    _OWNERS,
    _VOTES,
)
