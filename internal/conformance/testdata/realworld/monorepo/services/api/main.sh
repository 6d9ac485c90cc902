echo api "$(cat /count)" "$(cat /app/shared/name)" "$(ls /app/api)"
