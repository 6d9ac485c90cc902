#!/bin/sh
echo "Hello from Strake! This image was built on $(cat /app/built-on)."
