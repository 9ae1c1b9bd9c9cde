"""The link: what one side knows of the other, whichever way a batch goes; gaps, receipts, requests, epochs."""
