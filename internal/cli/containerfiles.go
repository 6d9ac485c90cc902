package cli

// containerFileCommands are the commands on the files of containers.
func containerFileCommands() []node {
	return []node{
		{names: "commit", make: newCommitCommand},
		{names: "cp", make: newContainerCopyCommand},
		{names: "diff", make: newDiffCommand},
		{names: "export", make: newExportCommand},
	}
}
