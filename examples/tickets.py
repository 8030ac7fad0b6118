#!/usr/bin/env python3
"""Add fields of your own to the record: here, the ticket and the owner of each job.

    python3 examples/tickets.py OPS-17 ann ./deploy.sh
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from nodejobs import Field, JobRecord, Jobs, SchemaError  # noqa: E402


class TicketRecord(JobRecord):
    ticket = Field(str, required=True, doc="for which ticket it ran")
    owner = Field(str, default="nobody", doc="whom to ask")


class TicketJobs(Jobs):
    record_class = TicketRecord


def main(ticket, owner, *command):
    jobs = TicketJobs()
    try:
        jobs.run("true", "unasked-for")
    except SchemaError as error:
        print("refused:", error)
    record = jobs.run(list(command), "deploy-" + ticket, ticket=ticket, owner=owner)
    jobs.wait(record.self_id)
    for job_id, record in jobs.list_status({TicketRecord.owner: owner}).items():
        print("%s: %s, for %s, ask %s" % (job_id, record.status, record.ticket, record.owner))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
