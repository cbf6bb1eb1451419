"""Every bound on what a peer or a client may send, keep or make us keep, with its reason.

Sizes are bytes, times are seconds, unless a name says otherwise.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- the wire between node and load balancer ---------------------------------------------------

#: A RESULT frame holds at least one result, at most two full outputs and a value; the rest is headroom.
FRAME_LIMIT = 8 * MIB
#: Before HELLO the peer is a stranger; it gets no more of our memory than this.
STRANGER_FRAME_LIMIT = 256 * KIB
#: A sender closes a batch at this size or number, so that one frame never holds up the link for long.
BATCH_BYTES = 1 * MIB
BATCH_ITEMS = 1000
#: Tickets asked for in one REQUEST_OF_RES; the rest waits for the next period.
REQUEST_ITEMS = 1000
#: The peer has this long to send its HELLO (or WELCOME).
HELLO_TIMEOUT = 5.0
#: Each side sends INFO this often, so silence means something.
INFO_PERIOD = 1.0
#: A link that was silent this long is dead: five missed INFO.
LINK_TIMEOUT = 5.0
#: A peer that does not read while this much waits for it loses its link, and reconciles when it is back.
LINK_BUFFER_LIMIT = 64 * MIB
#: Strangers connected at once; one more is turned away at the door.
STRANGERS_LIMIT = 64

# --- the clients' line protocol ----------------------------------------------------------------

#: A command line of a job is at most this long (Linux takes 128 KiB for one argument).
LINE_LIMIT = 64 * KIB
#: Lines of one client handled before the others get their turn.
LINES_PER_TURN = 500
#: Replies a client may be owed (`wait` holds back those behind it) before its lines are left unread.
PIPELINE_LIMIT = 100_000
#: Tickets of one `wait`: each is owed a reply, and all of them are taken in one turn.
WAIT_LIMIT = 1000
#: Tickets of one `list`, usually and at most: as many views of jobs in memory, for one client at a time.
LIST_USUAL = 100
LIST_LIMIT = 1000
#: Tags that one client has subscribed to: as many dictionary entries.
SUBSCRIPTIONS_LIMIT = 100
#: A client that does not read gets no more than this buffered; then its lines are left unread.
CLIENT_BUFFER_LIMIT = 1 * MIB
#: Clients of one node at once; one more is told so.
CLIENTS_LIMIT = 2000
#: Files that one client has sent and that are not on the disk, before it is left unread.
UPLOADS_PENDING = 100

# --- jobs -----------------------------------------------------------------------------------------

TICKET_LENGTH = 16
#: Kept of stdout, and of stderr, of a job; the rest is counted.
OUTPUT_LIMIT = 1 * MIB
#: The forerunner's largest number: a signed 32-bit integer of milliseconds, almost 25 days.
SLEEP_LIMIT_MS = 2**31 - 1
#: `--time` at most: ten years of seconds.
TIME_LIMIT = 10 * 366 * 24 * 3600.0
#: `--retries` at most: with the growing delay, far more than a month.
RETRIES_LIMIT = 1000
#: `--priority` at most, and below 0 at least: a hundred steps each way are more than people tell apart.
PRIORITY_LIMIT = 100
#: Tickets of one job's `--after`: as many edges are kept in memory until they have ended.
AFTER_LIMIT = 1000
#: `--array`: one job is no array; so many are made in one step and committed at once, in about a second.
ARRAY_LEAST = 2
ARRAY_LIMIT = 100_000
#: The jobs of an array in all, as they are stored: half of what may wait for a link.
ARRAY_BYTES = 32 * MIB
#: Jobs of an array in one reply; the next ones are asked for by their number.
ARRAY_PAGE = 1000
#: What a task returned, as JSON text, at most: what is more belongs into a file.
VALUE_LIMIT = 256 * KIB
#: A partial result of a task, as JSON text, and all those of one task.
PARTIAL_LIMIT = 64 * KIB
PARTIALS_BYTES = 16 * MIB
#: Objects and arrays within one another, in a payload or a value: no reader of JSON gives up at so few.
JSON_DEPTH_LIMIT = 64
#: `--memory` at least, or no program could start; at most: more than any machine has.
MEMORY_LEAST = 1 * MIB
MEMORY_LIMIT = 2**50
#: Files that come with one job, and bytes of a path in its directories: what any file system takes as a name.
FILES_LIMIT = 100
PATH_LIMIT = 255
#: The same where it is of a job of an array, behind its number.
ARRAY_PATH_LIMIT = PATH_LIMIT + len(f"{ARRAY_LIMIT}/")
#: An uploaded file at most: what a disk holds some of.
UPLOAD_LIMIT = 16 * GIB
#: Files that one job may leave in its result directory, or have as a checkpoint: as many as a report and a
#: question of one node to another have room for.
RESULT_FILES_LIMIT = 5000
#: What an executor keeps of files that jobs brought along; the least recently used go first.
CACHE_BYTES = 8 * GIB
#: Attempts of a job that came to nothing, of which it is told what came of them: the last ones.
ATTEMPTS_TOLD = 8
#: A key stands for its ticket at least so long after it was claimed: longer than any client tries again.
KEY_PERIOD = 24 * 3600.0
#: Keys that the load balancer knows at most, in about 1 GB of its memory; one more, and the oldest are
#: forgotten before their time.
KEYS_LIMIT = 4_000_000
#: `--notify` at most: what servers take.
URL_LIMIT = 2000
#: Notices that are being sent at once, each in a thread with a result in memory; and to one receiver, which
#: has been given its last one: enough for some hundred a second where an answer takes 10 ms.
NOTICES_AT_ONCE = 32
NOTICES_PER_RECEIVER = 4
#: Receivers without a notice of which it is known that they took the last one: as many dictionary entries.
RECEIVERS_KNOWN = 1000
#: A receiver has so long to answer, all in all; what it says beyond its status is read so far and ignored.
NOTICE_TIMEOUT = 10.0
NOTICE_ANSWER_BYTES = 4 * KIB
#: From one try to the next, ever longer; after a day nobody waits for it any more.
NOTICE_RETRY_FIRST = 1.0
NOTICE_RETRY_MOST = 3600.0
NOTICE_RETRY_PERIOD = 24 * 3600.0
#: Between SIGTERM and SIGKILL of a job that is to end.
KILL_GRACE = 2.0
#: Seconds since the epoch at most, in the year 5138: what no calendar has cannot be shown to a client.
TIMESTAMP_LIMIT = 1e11
#: An attempt number at most: far more than any crash limit allows, small enough for any integer type.
ATTEMPT_LIMIT = 2**31 - 1

# --- nodes ----------------------------------------------------------------------------------------

NAME_LIMIT = 64
SLOTS_LIMIT = 4096
#: Jobs that a node may hold for the load balancer (HELLO lists them): a bound for validation.
HELD_LIMIT = 8192
#: Of these, such as have ended and whose files are on their way home: they take none of what it may hold,
#: or an origin that is away would have all nodes full of them.
LEAVING_LIMIT = 1000
#: What a peer may ask or answer in one QUERY, as JSON text.
QUERY_LIMIT = 1 * MIB
#: One ASK or TOLD between nodes: a piece of a file, or a report, and what stands around it.
RELAY_LIMIT = 2 * MIB
#: A piece of a file under way: some of them at once fill a link, none holds it up.
PIECE_BYTES = 256 * KIB
