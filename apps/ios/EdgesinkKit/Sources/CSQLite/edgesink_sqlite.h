// The system's SQLite: part of every Apple system, package libsqlite3-dev on Debian and Ubuntu.
#include <sqlite3.h>
