#!/bin/sh
# A daemon that ends before it listens.
echo "first line" >&2
echo "no such option: --monitor" >&2
exit 3
