"""The audit: coded findings (rules over records), probes of one model, the findings of a whole study."""
