package cli

// containerFileCommands are the commands on the files of containers.
func containerFileCommands() []node {
	return []node{
		{names: "diff", make: newDiffCommand},
	}
}
