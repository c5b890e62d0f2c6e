#!/bin/sh
# Creates Temporal's two databases, or brings their schema to the version of this image. Changes nothing the second time.
# The SQL_* variables say where; the folders are those of temporalio/admin-tools.
set -eu

prepare() { # database, folder of its schema
  temporal-sql-tool --db "$1" create
  temporal-sql-tool --db "$1" setup-schema -v 0.0
  temporal-sql-tool --db "$1" update-schema -d "/etc/temporal/schema/postgresql/v12/$2/versioned"
}

prepare temporal temporal
prepare temporal_visibility visibility
