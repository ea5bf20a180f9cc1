#!/bin/sh
# A daemon that never listens.
echo "thinking" >&2
exec sleep 1000
