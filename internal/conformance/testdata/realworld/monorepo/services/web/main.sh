echo web "$(cat /app/libs/shared/name)"
