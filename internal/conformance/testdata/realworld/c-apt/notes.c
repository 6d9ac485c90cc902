#include <sqlite3.h>
#include <stdio.h>

static int show(void *unused, int n, char **values, char **names) {
	(void)unused, (void)n, (void)names;
	return puts(values[0]) < 0;
}

int main(int argc, char **argv) {
	sqlite3 *db;
	char *why = NULL;
	if (sqlite3_open("notes.db", &db) != SQLITE_OK) {
		fprintf(stderr, "%s\n", sqlite3_errmsg(db));
		return 1;
	}
	char *add = sqlite3_mprintf("create table if not exists n (t); insert into n values (%Q)", argc > 1 ? argv[1] : "");
	if (sqlite3_exec(db, add, NULL, NULL, &why) || sqlite3_exec(db, "select t from n", show, NULL, &why)) {
		fprintf(stderr, "%s\n", why);
		return 1;
	}
	sqlite3_free(add);
	return sqlite3_close(db);
}
