"""What makes a checkpoint of ours one of many on the Hub: adapters, cards, pushing."""
